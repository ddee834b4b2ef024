// SPDX-License-Identifier: GPL-2.0

//! SOCK_STREAM: a server that echoes, and a client that sends some bytes and reads them back.
//!
//! `stream server 1234` in one machine; `stream client 3 1234` in another, which knows the first by CID 3.
//! The host is CID 2.

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::Shutdown,
    thread,
};

use vsock::{VsockListener, VsockStream, VMADDR_CID_ANY};

fn serve(port: u32) -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    println!("waiting on port {port}");
    loop {
        let (stream, peer) = listener.accept()?;
        println!("a connection from {peer}");
        thread::spawn(|| echo(stream));
    }
}

/// Until the client has ended its half, or the connection.
fn echo(mut stream: VsockStream) -> io::Result<u64> {
    io::copy(&mut stream.try_clone()?, &mut stream)
}

fn talk(cid: u32, port: u32) -> io::Result<()> {
    let mut stream = VsockStream::connect_with_cid_port(cid, port)?;
    stream.write_all(b"hello, ")?;
    stream.write_all(b"world\n")?;
    // The server reads an end now. What it still has to say arrives all the same.
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    print!("{answer}");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server", port] => serve(port.parse()?)?,
        ["client", cid, port] => talk(cid.parse()?, port.parse()?)?,
        _ => return Err("usage: stream server PORT, or stream client CID PORT".into()),
    }
    Ok(())
}
