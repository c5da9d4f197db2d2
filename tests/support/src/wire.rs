//! One command to a Valkey server, past every client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::process::ServerError;
use super::valkey::PROGRAM;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends a command to the server on a loopback port and returns what it answers; parts of an answer stand in lines.
///
/// # Errors
/// [`ServerError::NotReady`] with the error that it answers.
pub(crate) fn ask(port: u16, command: &[impl AsRef<[u8]>]) -> Result<String, ServerError> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("*{}\r\n", command.len()).into_bytes();
    for part in command.iter().map(AsRef::as_ref) {
        request.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        request.extend_from_slice(part);
        request.extend_from_slice(b"\r\n");
    }
    stream.write_all(&request)?;
    read_answer(&mut BufReader::new(stream))
}

fn read_answer(reader: &mut BufReader<TcpStream>) -> Result<String, ServerError> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| not_ready("no answer".to_owned()))?;
    match kind {
        "-" => Err(not_ready(rest.to_owned())),
        "$" => {
            let Ok(length) = rest.parse::<usize>() else { return Ok(String::new()) };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let parts = (0..rest.parse().unwrap_or(0)).map(|_| read_answer(reader)).collect::<Result<Vec<_>, _>>()?;
            Ok(parts.join("\n"))
        }
        _ => Ok(rest.to_owned()),
    }
}

fn not_ready(reason: String) -> ServerError {
    ServerError::NotReady { program: PROGRAM, reason }
}
