//! Messages with descriptors in them, over a socket that keeps the borders between messages.
//!
//! # Safety
//!
//! Messages are built in arrays that live through the call; each descriptor that arrives is adopted
//! once.

#![expect(unsafe_code, reason = "socketpair, sendmsg and recvmsg")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use super::{
    fd,
    result::{check, retry},
};

/// Descriptors that a message carries at most.
pub(crate) const MOST_FDS: usize = 8;

/// Room for the descriptors of a message and the header before them, in words, so that it is
/// aligned.
const CONTROL_WORDS: usize = 8;

/// Makes two connected sockets that keep the borders between messages.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: the call just returned them, and nothing else owns them.
    unsafe { fd::adopt_pair(ends) }
}

/// Sends a message with copies of descriptors; a reader that is gone is an error.
pub(crate) fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    assert!(fds.len() <= MOST_FDS, "too many descriptors for a message");
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let size = size_of_val(fds.as_slice());
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut message = message(&mut part);
    if size > 0 {
        // SAFETY: computes a number.
        let space = unsafe { libc::CMSG_SPACE(size as u32) } as usize;
        debug_assert!(space <= size_of_val(&control));
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = space as _;
        // SAFETY: `message` has room for a header, so this is the address of one in `control`.
        let header = unsafe { libc::CMSG_FIRSTHDR(&message) };
        // SAFETY: computes a number.
        let len = unsafe { libc::CMSG_LEN(size as u32) };
        // SAFETY: as said, and nothing else refers to `control`.
        unsafe {
            header.write(libc::cmsghdr {
                cmsg_len: len as _,
                cmsg_level: libc::SOL_SOCKET,
                cmsg_type: libc::SCM_RIGHTS,
            });
        }
        // SAFETY: `header` is valid, its data lies behind it.
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: `space` counts the header and `size` bytes of data.
        unsafe { data.copy_from_nonoverlapping(fds.as_ptr().cast(), size) };
    }
    // SAFETY: `message` refers to `part`, `bytes` and `control`, which live through the call.
    let sent =
        retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) })?;
    debug_assert_eq!(sent as usize, bytes.len());
    Ok(())
}

/// Receives a message of up to `max` bytes, waiting for it, and its descriptors; `None` at the end of
/// file. One that is longer, or whose descriptors found no room here, is an error.
pub(crate) fn receive_packet(
    socket: BorrowedFd<'_>,
    max: usize,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    // Not filled with zeros: a fork server would touch pages that its children share, each time.
    let mut bytes: Vec<u8> = Vec::with_capacity(max);
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: max,
    };
    let mut message = message(&mut part);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` refers to `part`, `bytes` and `control`, which are valid to write.
    let received = retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) })?;
    let fds = received_fds(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        let text = "a message did not arrive as a whole: are too many descriptors open?";
        return Err(io::Error::other(text));
    }
    if received == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has written so many, and says no more than there was room for.
    unsafe { bytes.set_len(received as usize) };
    Ok(Some((bytes, fds)))
}

fn message(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: all zeros is a valid header, which consists of integers and pointers that may be null.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message
}

/// Adopts the descriptors of a message that was just received.
fn received_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the header in, and its buffer.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: it is null, or the address of a header in the buffer.
    while let Some(this) = unsafe { header.as_ref() } {
        if this.cmsg_level == libc::SOL_SOCKET && this.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: computes a number.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let len: usize = this.cmsg_len as _;
            let count = (len - before) / size_of::<RawFd>();
            // SAFETY: `header` is valid, its data lies behind it.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: the header says that there are so many.
                let place = unsafe { data.add(index) };
                // SAFETY: as above; the place may be unaligned.
                let raw = unsafe { place.read_unaligned() };
                // SAFETY: the kernel just made it for us, and nothing else owns it.
                if let Ok(fd) = unsafe { fd::adopt(raw) } {
                    fds.push(fd);
                }
            }
        }
        // SAFETY: `header` is one of the message's.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::fd::AsFd,
    };

    use super::*;

    #[test]
    fn a_message_carries_bytes_and_descriptors() {
        let (one, two) = packet_pair().unwrap();
        let (reader, writer) = fd::pipe().unwrap();
        send_packet(one.as_fd(), b"first", &[writer.as_fd(), reader.as_fd()]).unwrap();
        send_packet(one.as_fd(), b"second", &[]).unwrap();
        drop((reader, writer));
        let (bytes, mut fds) = receive_packet(two.as_fd(), 100).unwrap().unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (&b"first"[..], 2));
        let mut reader = File::from(fds.pop().unwrap());
        File::from(fds.pop().unwrap())
            .write_all(b"through")
            .unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        let (bytes, fds) = receive_packet(two.as_fd(), 100).unwrap().unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (&b"second"[..], 0));
        send_packet(one.as_fd(), b"too long", &[one.as_fd()]).unwrap();
        assert!(receive_packet(two.as_fd(), 3).is_err());
        drop(one);
        assert!(receive_packet(two.as_fd(), 3).unwrap().is_none());
        assert!(send_packet(two.as_fd(), b"anybody?", &[]).is_err());
    }
}
