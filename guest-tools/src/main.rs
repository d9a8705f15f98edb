//! guest-tools: the guest's side of a disk served over AF_VSOCK.

mod init;

fn main() {
    if init::is_first_process() {
        init::run(std::env::args_os().skip(1));
    }
}
