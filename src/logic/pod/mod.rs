//! The pod lifecycle: state machines of pod, container, probe and restart.
