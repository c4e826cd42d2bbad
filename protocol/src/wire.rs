//! Compact CBOR (RFC 8949) for structs and enums: arrays instead of maps with text keys.
//!
//! A struct is an array of its fields, an enum variant an array of its tag and its fields. (serde's derive would write the name
//! of every field and variant into every message.) A later version may append fields, so a decoder skips elements after the
//! last one that it knows. An unknown tag is an error.
//!
//! Uids and signatures are computed over encodings, so a value has exactly one: definite lengths, and every number as short as
//! it can be (the preferred serialization of RFC 8949, section 4.1).

use serde::de::{DeserializeOwned, Error, IgnoredAny, SeqAccess};

/// Encodes a value as one CBOR item.
pub fn to_cbor<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL);
    append_cbor(value, &mut bytes);
    bytes
}

/// Encodes a value as one CBOR item, after what is there already.
pub fn append_cbor<T: serde::Serialize>(value: &T, bytes: &mut Vec<u8>) {
    ciborium::into_writer(value, bytes).expect("writing to a vector does not fail, and every wire type can be encoded");
}

/// As long as most values are, encoded, in bytes: a vector that begins empty would be copied several times as it grows.
const USUAL: usize = 256;

/// Decodes exactly one CBOR item.
///
/// # Errors
/// The item is malformed, is not a `T`, or is followed by more bytes. The text says which, for a person.
pub fn from_cbor<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, String> {
    let value = ciborium::de::from_reader_with_recursion_limit(&mut bytes, RECURSION_LIMIT)
        .map_err(|error| error.to_string())?;
    match bytes.len() {
        0 => Ok(value),
        extra => Err(format!("{extra} bytes follow the item")),
    }
}

/// How deeply items may be nested: twice as deep as the deepest message. A hostile message must not exhaust the stack.
const RECURSION_LIMIT: usize = 16;

/// Bytes that are encoded as a CBOR byte string; a plain `Vec<u8>` would be an array of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl serde::Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("bytes")
            }
            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// Decodes the next element of an array as the field of this name.
///
/// # Errors
/// The array has ended, or the element is of another type.
pub fn element<'de, A: SeqAccess<'de>, T: serde::Deserialize<'de>>(
    sequence: &mut A,
    field: &'static str,
) -> Result<T, A::Error> {
    sequence.next_element()?.ok_or_else(|| A::Error::missing_field(field))
}

/// Skips the elements that a later version of the protocol appended.
///
/// # Errors
/// One of them is not well-formed.
pub fn skip_rest<'de, A: SeqAccess<'de>>(sequence: &mut A) -> Result<(), A::Error> {
    while sequence.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Defines an enum whose variants are encoded as `[tag, field, …]`. A field needs a comment only where its name and type do not
/// say everything.
#[macro_export]
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident {
        $( $(#[$variant_meta:meta])* $tag:literal => $variant:ident
            $( { $( $(#[$field_meta:meta])* $field:ident : $type:ty ),* $(,)? } )? ),* $(,)?
    }) => {
        $(#[$meta])*
        pub enum $name {
            $( $(#[$variant_meta])* $variant $( { $( #[allow(missing_docs)] $(#[$field_meta])* $field: $type ),* } )? ),*
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeSeq;
                match self {
                    $( Self::$variant $( { $( $field ),* } )? => {
                        const FIELDS: &[&str] = &[$( $( stringify!($field) ),* )?];
                        let mut sequence = serializer.serialize_seq(Some(1 + FIELDS.len()))?;
                        sequence.serialize_element(&($tag as u8))?;
                        $( $( sequence.serialize_element($field)?; )* )?
                        sequence.end()
                    } )*
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name;
                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        write!(formatter, "an array [tag, …] for {}", stringify!($name))
                    }
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut sequence: A) -> Result<$name, A::Error> {
                        let tag: u64 = $crate::wire::element(&mut sequence, "tag")?;
                        let value = match tag {
                            $( $tag => $name::$variant
                                $( { $( $field: $crate::wire::element(&mut sequence, stringify!($field))? ),* } )?, )*
                            unknown => return Err(serde::de::Error::custom(
                                format_args!("{unknown} is not a tag of {}", stringify!($name)))),
                        };
                        $crate::wire::skip_rest(&mut sequence)?;
                        Ok(value)
                    }
                }
                // Not as a sequence: ciborium would take a byte string for one, and so a value had a second encoding.
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

/// Defines a struct that is encoded as `[field, …]`. As for enums, a field's comment may be left out.
#[macro_export]
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $( $(#[$field_meta:meta])* pub $field:ident : $type:ty ),* $(,)? }) => {
        $(#[$meta])*
        pub struct $name { $( #[allow(missing_docs)] $(#[$field_meta])* pub $field: $type ),* }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeSeq;
                const FIELDS: &[&str] = &[$( stringify!($field) ),*];
                let mut sequence = serializer.serialize_seq(Some(FIELDS.len()))?;
                $( sequence.serialize_element(&self.$field)?; )*
                sequence.end()
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name;
                    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        write!(formatter, "an array of the fields of {}", stringify!($name))
                    }
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut sequence: A) -> Result<$name, A::Error> {
                        let value = $name { $( $field: $crate::wire::element(&mut sequence, stringify!($field))? ),* };
                        $crate::wire::skip_rest(&mut sequence)?;
                        Ok(value)
                    }
                }
                // Not as a sequence: ciborium would take a byte string for one, and so a value had a second encoding.
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

/// Defines an array of bytes that is encoded as a CBOR byte string and shown in hexadecimal.
macro_rules! wire_bytes {
    ($(#[$meta:meta])* pub struct $name:ident([u8; $length:literal]);) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "{self}")
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::wire::fixed_bytes(deserializer).map($name)
            }
        }
    };
}

/// Decodes a byte string of exactly `LENGTH` bytes.
pub(crate) fn fixed_bytes<'de, D: serde::Deserializer<'de>, const LENGTH: usize>(
    deserializer: D,
) -> Result<[u8; LENGTH], D::Error> {
    struct Visitor<const LENGTH: usize>;
    impl<const LENGTH: usize> serde::de::Visitor<'_> for Visitor<LENGTH> {
        type Value = [u8; LENGTH];
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(formatter, "{LENGTH} bytes")
        }
        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
            bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
        }
    }
    deserializer.deserialize_bytes(Visitor::<LENGTH>)
}

#[cfg(test)]
mod tests {
    use super::*;

    wire_enum! {
        /// A message as this version knows it.
        #[derive(Debug, PartialEq)]
        pub enum Sample {
            0 => Empty,
            7 => Pair { first: u64, second: String },
        }
    }

    #[test]
    fn variants_are_arrays_that_begin_with_their_tag() {
        assert_eq!(to_cbor(&Sample::Empty), [0x81, 0x00]);
        let pair = Sample::Pair { first: 1, second: "x".into() };
        assert_eq!(to_cbor(&pair), [0x83, 0x07, 0x01, 0x61, b'x']);
        assert_eq!(from_cbor::<Sample>(&to_cbor(&pair)), Ok(pair));
    }

    #[test]
    fn appended_fields_are_skipped_and_other_tags_refused() {
        assert_eq!(from_cbor::<Sample>(&[0x83, 0x00, 0x01, 0x82, 0x01, 0x02]), Ok(Sample::Empty));
        assert!(from_cbor::<Sample>(&[0x81, 0x05]).expect_err("not a sample").contains("5 is not a tag of Sample"));
        assert!(from_cbor::<Sample>(&[0x82, 0x07, 0x01]).expect_err("not a sample").contains("missing field"));
        assert!(from_cbor::<Sample>(&[0x80]).is_err());
        assert!(from_cbor::<Sample>(&[0x81, 0x00, 0x00]).expect_err("not a sample").contains("1 bytes follow"));
    }

    #[test]
    fn a_byte_string_is_no_array() {
        assert!(from_cbor::<Sample>(&[0x41, 0x00]).expect_err("not a sample").contains("expected an array"));
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
        let mut bytes = vec![0x81; 100_000];
        bytes.push(0x00);
        assert!(from_cbor::<Sample>(&bytes).is_err());
        let mut bytes = vec![0x82, 0x00];
        bytes.extend(vec![0x81; 100_000]);
        assert!(from_cbor::<Sample>(&bytes).is_err());
    }
}
