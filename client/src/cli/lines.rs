//! Cuts the bytes of standard input into lines.

use std::fmt;

/// The most bytes of a line. The longest useful one, a `send` of a 4,096-byte text, takes a fraction of this.
pub const LINE_MAX: usize = 64 * 1024;

/// Why a line was dropped, as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It is longer than [`LINE_MAX`].
    TooLong,
    NotUtf8,
}

impl fmt::Display for LineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::TooLong => write!(formatter, "the line is longer than {LINE_MAX} bytes"),
            LineError::NotUtf8 => write!(formatter, "the line is not UTF-8"),
        }
    }
}

/// The beginning of a line whose end has not arrived. Never more than [`LINE_MAX`] bytes.
#[derive(Debug, Default)]
pub struct LineBuffer {
    partial: Vec<u8>,
    /// Whether the line is already too long, so that its bytes are dropped up to its end.
    is_too_long: bool,
}

impl LineBuffer {
    /// Takes bytes, and passes the lines that they complete to `each`, without newlines.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Result<String, LineError>)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.extend(&bytes[..end]);
            bytes = &bytes[end + 1..];
            each(self.take());
        }
        self.extend(bytes);
    }

    /// At the end of the input: the last line, if it has no newline.
    pub fn finish(&mut self) -> Option<Result<String, LineError>> {
        (self.is_too_long || !self.partial.is_empty()).then(|| self.take())
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.partial.len() + bytes.len() > LINE_MAX {
            self.partial.clear();
            self.is_too_long = true;
        }
        if !self.is_too_long {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn take(&mut self) -> Result<String, LineError> {
        let bytes = std::mem::take(&mut self.partial);
        match std::mem::take(&mut self.is_too_long) {
            true => Err(LineError::TooLong),
            false => String::from_utf8(bytes).map_err(|_| LineError::NotUtf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], chunk: usize) -> Vec<Result<String, LineError>> {
        let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
        input.chunks(chunk).for_each(|bytes| buffer.push(bytes, |line| lines.push(line)));
        lines.extend(buffer.finish());
        lines
    }

    #[test]
    fn lines_do_not_depend_on_how_their_bytes_are_chunked() {
        for chunk in [1, 2, 3, 100] {
            let expected: Vec<_> = ["one", "", " t\u{e9}n ", "end"].map(|line| Ok(line.to_string())).into();
            assert_eq!(lines("one\n\n t\u{e9}n \nend".as_bytes(), chunk), expected);
            assert_eq!(lines("end\n".as_bytes(), chunk), [Ok("end".to_string())]);
            assert_eq!(lines(b"", chunk), []);
        }
    }

    #[test]
    fn a_bad_line_is_an_error_and_the_next_line_is_read() {
        let mut input = vec![b'x'; LINE_MAX + 1];
        input.extend(b"\n\xff\xfe\ngood\n");
        let expected = [Err(LineError::TooLong), Err(LineError::NotUtf8), Ok("good".to_string())];
        assert_eq!(lines(&input, 1000), expected);
        assert_eq!(lines(&input, input.len()), expected);
        assert_eq!(lines(&vec![b'x'; LINE_MAX + 9], 7), [Err(LineError::TooLong)]);
        assert!(lines(&[b'x'; LINE_MAX], 7)[0].is_ok());
    }
}
