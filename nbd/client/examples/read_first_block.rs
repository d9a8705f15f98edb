//! Prints the first 64 bytes of an export:
//!
//! ```text
//! cargo run -p nbd-client --example read_first_block -- nbd://localhost/
//! ```

use std::{env, error::Error, time::Duration};

use nbd::Uri;
use nbd_client::{Connector, Order, Timeout};

fn main() -> Result<(), Box<dyn Error>> {
    let uri: Uri = env::args().nth(1).ok_or("usage: read_first_block URI")?.parse()?;

    // A server that owes an answer for ten seconds counts as gone.
    let connector = Connector::new(Timeout::new(Duration::from_secs(10)));
    let mut client = connector.open(&uri)?;
    let described = client.described();
    println!("{uri}: {} bytes, flags {:?}", described.size, described.flags);

    // The smallest block that the server takes, or all of a smaller export.
    let len = u64::from(described.blocks.minimum).max(512).min(described.size);
    if len > 0 {
        // More requests may be submitted before the first is answered.
        client.submit(Order::read(0, len, Vec::new()))?;
        let done = client.next_good()?;
        for (row, bytes) in done.order.bytes.chunks(16).take(4).enumerate() {
            println!("{:04x}: {bytes:02x?}", row * 16);
        }
    }
    client.close();
    Ok(())
}
