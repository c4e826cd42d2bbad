//! The state machine by golden scripts, one scenario a file, in `store/scripts`; then what scripts cannot say.
