//! Bytes written as hexadecimal digits.

/// The bytes that twice as many hexadecimal digits stand for; none if the text is anything else.
pub fn bytes_from_hex<const LENGTH: usize>(digits: &str) -> Option<[u8; LENGTH]> {
    if digits.len() != 2 * LENGTH || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; LENGTH];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_and_nothing_else() {
        assert_eq!(bytes_from_hex("00fFa9"), Some([0, 255, 0xa9]));
        for bad in ["", "00ff", "00ffa9a9", "+0ffa9", "00ffag", "00ff\u{e9}"] {
            assert_eq!(bytes_from_hex::<3>(bad), None, "{bad:?}");
        }
    }
}
