//! The log (truth) and LMDB (state) behind `propose`.
