//! Feeds boards with their desired pods and takes their statuses.
