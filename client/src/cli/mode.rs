//! The kind of user that the client works for. It decides what the client says and when it gives up.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A person at a terminal, who decides when to give up.
    Prompt,
    /// A script that pipes lines in.
    Filter,
    /// A single command.
    Once,
    /// A person or a script that waits for messages.
    Listen,
}
