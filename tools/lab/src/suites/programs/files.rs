// SPDX-License-Identifier: GPL-2.0

//! Programs that carry files: socat, ncat, SSH.

use std::fs;

use anyhow::{ensure, Context, Result};

use super::{checksum, make_file, place, sh, start, unpack, wait_for_listener};
use crate::{
    session::{Session, Side},
    suites::LONG,
};

/// What bind() takes for any CID, written as ncat wants it.
const ANY_CID: &str = "4294967295";

const FILE_BYTES: usize = 64 << 20;

pub fn socat(s: &mut Session, sender: Side) -> Result<()> {
    unpack(s)?;
    let (port, receiver) = (s.fresh_port(), sender.other());
    let (here, there) = (place(s, sender, "sent"), place(s, receiver, "received"));
    let sum = match sender {
        Side::Host => make_file(s, &here, FILE_BYTES)?,
        Side::Guest => {
            // Written in the guest, so that the host's network emulation carries nothing.
            sh(
                s,
                sender,
                &format!("head -c {FILE_BYTES} /dev/urandom > {here}"),
            )?;
            checksum(s, sender, &here)?
        }
    };
    let server = start(
        s,
        receiver,
        &format!("socat -b 65536 -u VSOCK-LISTEN:{port} CREATE:{there}"),
    )?;
    wait_for_listener(s, receiver, port, &server)?;
    let client = start(
        s,
        sender,
        &format!(
            "socat -b 65536 -u OPEN:{here} VSOCK-CONNECT:{}:{port}",
            receiver.cid()
        ),
    )?;
    client.success(LONG)?;
    server.success(LONG)?;
    let got = checksum(s, receiver, &there)?;
    let size = sh(s, receiver, &format!("stat -c %s {there}"))?;
    sh(s, sender, &format!("rm {here}"))?;
    sh(s, receiver, &format!("rm {there}"))?;
    ensure!(
        size.trim() == FILE_BYTES.to_string(),
        "{size} bytes arrived, not {FILE_BYTES}"
    );
    ensure!(got == sum, "the checksum was {sum}, and is {got}");
    Ok(())
}

/// Both directions; not at once, since `ncat --exec` with more than its pipes hold stops for ever by itself.
pub fn ncat(s: &mut Session, client_side: Side) -> Result<()> {
    unpack(s)?;
    let server_side = client_side.other();
    let sum = make_file(s, &place(s, Side::Host, "sent"), 1 << 20)?;
    let mut from = Side::Host;
    for client_sends in [client_side == Side::Host, client_side == Side::Guest] {
        let port = s.fresh_port();
        let (sent, received) = (place(s, from, "sent"), place(s, from.other(), "received"));
        let sends = format!("--send-only < {sent}");
        let receives = format!("--recv-only > {received}");
        let (client_does, server_does) = if client_sends {
            (sends, receives)
        } else {
            (receives, sends)
        };
        let server = start(
            s,
            server_side,
            &format!("ncat --vsock -l {ANY_CID} {port} {server_does}"),
        )?;
        wait_for_listener(s, server_side, port, &server)?;
        let cid = server_side.cid();
        sh(
            s,
            client_side,
            &format!("ncat --vsock {cid} {port} {client_does}"),
        )?;
        server.success(LONG)?;
        let got = checksum(s, from.other(), &received)?;
        ensure!(
            got == sum,
            "from the {from:?}: the checksum was {sum}, and is {got}"
        );
        // What the guest got goes back.
        let next = place(s, from.other(), "sent");
        sh(s, from.other(), &format!("mv {received} {next}"))?;
        from = from.other();
    }
    Ok(())
}

pub fn ssh(s: &mut Session) -> Result<()> {
    unpack(s)?;
    let port = s.fresh_port();
    let dir = s.config.scratch.join("ssh");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let at = dir.display();
    for key in ["host", "user"] {
        sh(
            s,
            Side::Host,
            &format!("ssh-keygen -q -t ed25519 -N '' -C '' -f {at}/{key}"),
        )?;
    }
    let read = |name: &str| fs::read_to_string(dir.join(name));
    fs::write(dir.join("known"), format!("guest {}", read("host.pub")?))?;
    s.guest_sh(&format!(
        "umask 077 && mkdir -p /root/.ssh && cd /root/.ssh && echo '{}' > host && echo '{}' > authorized_keys
        cat > config <<-.
	HostKey /root/.ssh/host
	PasswordAuthentication no
	KbdInteractiveAuthentication no
	UsePAM no
	PidFile none
	.
        ",
        read("host")?.trim_end(),
        read("user.pub")?.trim_end()
    ))?;
    let server = start(
        s,
        Side::Guest,
        &format!("socat VSOCK-LISTEN:{port},fork EXEC:'/usr/sbin/sshd -i -e -f /root/.ssh/config'"),
    )?;
    wait_for_listener(s, Side::Guest, port, &server)?;
    let (sent, back) = (place(s, Side::Host, "sent"), place(s, Side::Host, "back"));
    let sum = make_file(s, &sent, 1 << 20)?;
    // The guest's key is checked, and the user's: nobody else may answer.
    let ssh = format!(
        "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -i {at}/user -o StrictHostKeyChecking=yes \
         -o UserKnownHostsFile={at}/known -o HostKeyAlias=guest -o ConnectTimeout=30 \
         -o ProxyCommand='socat - VSOCK-CONNECT:{}:{port}' root@guest",
        Side::Guest.cid()
    );
    let session = start(
        s,
        Side::Host,
        &format!("{ssh} 'cat > /root/.ssh/copy; sha256sum < /root/.ssh/copy; exit 7' < {sent}"),
    )?;
    let (code, text) = session
        .wait(LONG)
        .with_context(|| format!("sshd said: {}", server.text()))?;
    ensure!(
        code == 7 && text.contains(&sum),
        "ssh ended with {code} (7 expected) and said {text} (checksum {sum} expected); sshd said: {}",
        server.text()
    );
    sh(
        s,
        Side::Host,
        &format!("{ssh} 'cat /root/.ssh/copy' > {back}"),
    )?;
    let got = checksum(s, Side::Host, &back)?;
    ensure!(
        got == sum,
        "the file came back with the checksum {got}, not {sum}"
    );
    Ok(())
}
