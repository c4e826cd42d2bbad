//! Names of accounts, replicas and clusters, and patterns over names.

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The most bytes in a name.
pub const NAME_MAX: usize = 32;
/// The most bytes in a pattern.
pub const PATTERN_MAX: usize = 64;

/// Why a text is not a name, or not a pattern. `Display` quotes the text and says which rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    /// Shortened, because it may be anything.
    text: String,
    fault: &'static str,
}

impl NameError {
    pub(crate) fn new(text: &str, fault: &'static str) -> NameError {
        NameError { text: text.chars().take(2 * NAME_MAX).collect(), fault }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {}", self.text, self.fault)
    }
}

impl std::error::Error for NameError {}

/// Checks what names of all kinds have in common: 1 to [`NAME_MAX`] characters, each of them allowed.
fn check_characters(text: &str, is_allowed: fn(u8) -> bool, not_allowed: &'static str) -> Result<(), NameError> {
    let fault = if text.is_empty() {
        "is empty; a name has 1 to 32 characters"
    } else if text.len() > NAME_MAX {
        "is too long; a name has at most 32 characters"
    } else if !text.bytes().all(is_allowed) {
        not_allowed
    } else {
        return Ok(());
    };
    Err(NameError::new(text, fault))
}

/// The rule for names of clusters: 1 to [`NAME_MAX`] of `a-z 0-9 . _ -`, beginning with a letter or digit.
fn check_name(text: &str) -> Result<(), NameError> {
    let is_allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let not_allowed = "has a character that names do not have; they are made of a-z, 0-9, '.', '_' and '-'";
    check_characters(text, is_allowed, not_allowed)?;
    match text.as_bytes()[0].is_ascii_alphanumeric() {
        true => Ok(()),
        false => Err(NameError::new(text, "begins with a sign; a name begins with a letter or digit")),
    }
}

/// The rule for the names of accounts, which clients of other protocols have to be able to show: no dots, and a letter first.
pub(crate) fn check_account_name(text: &str) -> Result<(), NameError> {
    let is_allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    let not_allowed = "has a character that names do not have; they are made of a-z, 0-9, '_' and '-'";
    check_characters(text, is_allowed, not_allowed)?;
    match text.as_bytes()[0].is_ascii_lowercase() {
        true => Ok(()),
        false => Err(NameError::new(text, "does not begin with a letter, as names do")),
    }
}

/// The rule for the names of replicas, each of which is a DNS name of one label that no IP address looks like.
fn check_replica_name(text: &str) -> Result<(), NameError> {
    check_name(text)?;
    let fault = if text.contains(['.', '_']) {
        "has a character that names of replicas do not have; they are made of a-z, 0-9 and '-'"
    } else if !text.as_bytes()[0].is_ascii_lowercase() {
        "does not begin with a letter, as names of replicas do"
    } else if text.ends_with('-') {
        "ends with a sign; the name of a replica ends with a letter or digit"
    } else {
        return Ok(());
    };
    Err(NameError { text: text.into(), fault })
}

/// Defines a string type whose values keep a rule: parsing and decoding both check it.
macro_rules! checked_text {
    ($(#[$meta:meta])* $name:ident, $check:path, $error:ty) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks the rule, and wraps the text.
            ///
            /// # Errors
            /// The text breaks the rule; the error says how.
            pub fn parse(text: impl Into<String>) -> Result<Self, $error> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// The text without its type.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:?}", self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use checked_text;

checked_text! {
    /// The name of an account: 1 to 32 of `a-z 0-9 _ -`, beginning with a letter.
    AccountName, check_account_name, NameError
}

checked_text! {
    /// The name of a replica, which is the DNS name in its certificate: 1 to 32 of `a-z 0-9 -`, beginning with a letter and not ending
    /// with a sign.
    ReplicaName, check_replica_name, NameError
}

checked_text! {
    /// The name of a cluster, which keeps two clusters on one network apart: 1 to 32 of `a-z 0-9 . _ -`, beginning with a letter or
    /// digit.
    ClusterName, check_name, NameError
}

checked_text! {
    /// Tells clusters of the same name apart. The rule is that of their names.
    ClusterId, check_name, NameError
}

checked_text! {
    /// A pattern over account names, 1 to [`PATTERN_MAX`] bytes: `*` matches any characters, `?` exactly one, and every other
    /// character itself.
    Pattern, check_pattern, NameError
}

/// The rule for patterns: 1 to [`PATTERN_MAX`] of a name's characters, `*` and `?`.
fn check_pattern(text: &str) -> Result<(), NameError> {
    let fault = if text.is_empty() {
        "is empty; the pattern for all names is *"
    } else if text.len() > PATTERN_MAX {
        "is too long; a pattern has at most 64 characters"
    } else if !text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'?')) {
        "has a character that names do not have; patterns are made of a-z, 0-9, '_', '-', '*' and '?'"
    } else {
        return Ok(());
    };
    Err(NameError { text: text.chars().take(2 * PATTERN_MAX).collect(), fault })
}

impl Pattern {
    /// The pattern that every name matches.
    pub fn all() -> Pattern {
        Pattern("*".into())
    }

    /// The characters before the first wildcard: every matching name begins with them, so a sorted list need be searched there
    /// only.
    pub fn literal_prefix(&self) -> &str {
        &self.0[..self.0.find(['*', '?']).unwrap_or(self.0.len())]
    }

    /// Whether the whole name matches. Takes at most as many steps as the product of both lengths, however many stars there are.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut next) = (0, 0);
        // The last star, and how far it reaches. After a mismatch it is made to match one character more.
        let mut star: Option<(usize, usize)> = None;
        while next < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, next));
                    at += 1;
                }
                Some(&byte) if byte == b'?' || byte == name[next] => {
                    at += 1;
                    next += 1;
                }
                _ => match &mut star {
                    None => return false,
                    Some((place, taken)) => {
                        *taken += 1;
                        (at, next) = (*place + 1, *taken);
                    }
                },
            }
        }
        pattern[at..].iter().all(|&byte| byte == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rule() {
        for good in ["a", "alice", "a0b_c-d", "z-", &"x".repeat(32)] {
            assert!(AccountName::parse(good).is_ok(), "{good}");
        }
        for good in ["a", "0", "a.b_c-d", &"x".repeat(32)] {
            assert!(ClusterName::parse(good).is_ok(), "{good}");
        }
        for (bad, fault) in [
            ("", "is empty"),
            (&*"x".repeat(33), "too long"),
            ("Alice", "has a character"),
            ("a b", "has a character"),
            ("a,b", "has a character"),
            ("\u{e9}", "has a character"),
            ("a\0", "has a character"),
            ("a.b", "has a character"),
            ("0a", "does not begin with a letter"),
            ("-a", "does not begin with a letter"),
            ("_", "does not begin with a letter"),
            ("#room", "has a character"),
        ] {
            let error = AccountName::parse(bad).expect_err(bad).to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn a_decoded_name_is_checked_too() {
        let bytes = crate::wire::to_cbor(&"Not A Name");
        assert!(crate::wire::from_cbor::<AccountName>(&bytes).expect_err("no name").contains("has a character"));
    }

    #[test]
    fn patterns_match_whole_names() {
        let matches = |pattern: &str, name: &str| Pattern::parse(pattern).expect("a pattern").matches(name);
        for (pattern, name, expected) in [
            ("*", "alice", true),
            ("a*", "alice", true),
            ("a*", "bob", false),
            ("*e", "alice", true),
            ("a*c*", "alice", true),
            ("a?ice", "alice", true),
            ("a?ce", "alice", false),
            ("alice", "alice", true),
            ("alic", "alice", false),
            ("alicee", "alice", false),
            ("**?**", "a", true),
            ("?", "ab", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert_eq!(Pattern::parse("ab*c").expect("a pattern").literal_prefix(), "ab");
        assert_eq!(Pattern::all().literal_prefix(), "");
        assert!(Pattern::parse("").is_err());
        assert!(Pattern::parse("[a]").is_err());
    }
}
