//! Small questions: what does connect() say and how fast, when does a connection end and how.

use std::{
    io::{self, Read},
    time::Instant,
};

use anyhow::{Context, Result};
use vsock::VsockStream;

use crate::stream;

/// The symbolic name of an error's number, such as `ECONNRESET`.
pub fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None => format!("{:?}", error.kind()),
    }
}

/// Prints what connect() gave and after how many milliseconds.
pub fn connect(cid: u32, port: u32) -> Result<()> {
    let start = Instant::now();
    let outcome = match VsockStream::connect_with_cid_port(cid, port) {
        Ok(_) => "ok".into(),
        Err(e) => errno_name(&e),
    };
    println!(
        "CONNECT {outcome} {:.1}",
        start.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

/// Reads until the connection ends, and prints how it ended.
fn wait_end(mut stream: VsockStream) {
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return println!("END eof"),
            Ok(_) => continue,
            Err(e) => return println!("END {}", errno_name(&e)),
        }
    }
}

pub fn wait_end_client(cid: u32, port: u32) -> Result<()> {
    let stream = VsockStream::connect_with_cid_port(cid, port)
        .with_context(|| format!("connect to CID {cid} port {port}"))?;
    println!("CONNECTED");
    wait_end(stream);
    Ok(())
}

pub fn wait_end_server(port: u32) -> Result<()> {
    let (stream, _) = stream::listen(port)?.accept().context("accept")?;
    println!("ACCEPTED");
    wait_end(stream);
    Ok(())
}
