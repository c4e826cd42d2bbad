//! Running a command for each message: `listen --exec`.
//!
//! A thread of its own runs the commands, one after the other, since a command may take long, and the links have to be served
//! meanwhile. The poll is woken when a command has ended.

use crate::cli::visible::visible;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::Waker;
use stablechat_protocol::conversation::{Conversation, Message};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// The thread that runs commands.
pub struct Execution {
    /// A message at a time: the next one is sent when the command for this one has ended.
    messages: Sender<(Message, Conversation)>,
    results: Receiver<Result<(), String>>,
}

impl Execution {
    /// Starts the thread. `/bin/sh` runs `command` for each message.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(command: String, waker: Arc<Waker>) -> io::Result<Execution> {
        let (messages, take_message) = bounded::<(Message, Conversation)>(1);
        let (report, results) = unbounded();
        thread::Builder::new().name("commands".into()).spawn(move || {
            for (message, conversation) in take_message {
                let is_heard = report.send(run(&command, &message, &conversation)).is_ok();
                if !is_heard || waker.wake().is_err() {
                    break;
                }
            }
        })?;
        Ok(Execution { messages, results })
    }

    /// Runs the command for a message. The one before must have ended.
    pub fn run(&self, message: Message, conversation: Conversation) {
        self.messages.send((message, conversation)).expect("the thread ends with this process");
    }

    /// The result of the command that has ended, if one has.
    pub fn take(&self) -> Option<Result<(), String>> {
        self.results.try_recv().ok()
    }
}

/// Runs a command for a message, and waits for its end. An error says how it has failed.
fn run(command: &str, message: &Message, conversation: &Conversation) -> Result<(), String> {
    let Message { uid, from, text, .. } = message;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped());
    shell.env("STABLECHAT_FROM", from.as_str()).env("STABLECHAT_CONVERSATION", conversation.to_string());
    shell.env("STABLECHAT_UID", uid.to_string()).env("STABLECHAT_TIME_NS", uid.timestamp.0.to_string());
    // The environment has no zero bytes; standard input has the text as it is.
    shell.env("STABLECHAT_TEXT", text.as_str().replace('\0', "\u{2400}"));

    let mut child = shell.spawn().map_err(|error| format!("/bin/sh cannot be started: {error}"))?;
    let mut input = child.stdin.take().expect("it is a pipe");
    // A command need not read its input.
    match input.write_all(text.as_str().as_bytes()).and_then(|()| input.write_all(b"\n")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(format!("the message cannot be passed to it: {error}"));
        }
        _ => drop(input),
    }
    let status = child.wait().map_err(|error| format!("it cannot be waited for: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{status}")),
    }
}

/// What a person is told when the command for a message has failed.
pub fn failure(message: &Message, conversation: &Conversation, fault: &str) -> String {
    let text: String = visible(message.text.as_str()).chars().take(40).collect();
    format!(
        "the command for the message {} of {} in {conversation} ({text}) has failed: {fault}; the message stays unread",
        message.uid, message.from
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use stablechat_protocol::name::AccountName;
    use stablechat_protocol::text::MessageText;
    use stablechat_protocol::time::Timestamp;
    use stablechat_protocol::uid::Uid;

    fn message(text: &str) -> (Message, Conversation) {
        let ann = AccountName::parse("ann").expect("a name");
        let to: Conversation = "#ops".parse().expect("a name");
        let text = MessageText::parse(text).expect("a text");
        (Message { uid: Uid::new(Timestamp(7), b""), position: 1, from: ann, to: to.clone(), text }, to)
    }

    fn result(command: &str, text: &str) -> Result<(), String> {
        let (message, conversation) = message(text);
        run(command, &message, &conversation)
    }

    #[test]
    fn a_command_has_the_message_in_its_environment_and_on_its_input() {
        let has = r#"test "$STABLECHAT_FROM $STABLECHAT_CONVERSATION $STABLECHAT_TIME_NS" = "ann #ops 7""#;
        assert_eq!(result(has, "hi"), Ok(()));
        let long = "x y;".repeat(1000);
        assert_eq!(result(r#"test "$(cat)" = "$STABLECHAT_TEXT" && test ${#STABLECHAT_TEXT} = 4000"#, &long), Ok(()));
        assert_eq!(result("true", &long), Ok(()), "it need not read");
        assert_eq!(result(r#"test ${#STABLECHAT_TEXT} -ge 3"#, "a\0b"), Ok(()));
    }

    #[test]
    fn a_command_that_fails_says_how() {
        assert!(result("exit 3", "hi").is_err_and(|fault| fault.contains('3')));
        assert!(result("kill -9 $$", "hi").is_err_and(|fault| fault.contains('9')));
        let (message, conversation) = message("two\nlines");
        let told = failure(&message, &conversation, "exit status: 3");
        assert!(
            told.contains("of ann in #ops (two\u{240a}lines) has failed: exit status: 3; the message stays unread"),
            "{told}"
        );
    }
}
