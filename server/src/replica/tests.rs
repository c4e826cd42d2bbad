//! The protocol by golden scripts.
