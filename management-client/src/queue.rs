use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Lines that wait for delivery at most: 13 seconds of 5,000 requests a second, while a server restarts.
pub const CAPACITY: usize = 65_536;

/// How long a batch is collected. It also spares the workers: a line wakes nobody while a batch is being collected.
const LINGER: Duration = Duration::from_millis(100);
const BATCH_LINES: usize = 1_000;
/// A message may have 4 MiB.
const BATCH_BYTES: usize = 1 << 20;

/// A line in the form for the wire. It is made where the line is logged: what the line shares with its request stays on one
/// thread, and this is all that goes to another.
pub(crate) type Encoded = Vec<u8>;

/// The end of the queue from which batches are taken.
pub(crate) struct Queue {
    lines: mpsc::Receiver<Encoded>,
    closing: CancellationToken,
    batch: Vec<Encoded>,
    /// While a batch is being collected: until when.
    due: Option<Instant>,
}

impl Queue {
    /// A queue with its end for those who log. It takes no more lines once `closing` is cancelled.
    pub(crate) fn new(closing: CancellationToken) -> (mpsc::Sender<Encoded>, Self) {
        let (sender, lines) = mpsc::channel(CAPACITY);
        (sender, Self { lines, closing, batch: Vec::new(), due: None })
    }

    /// The next batch, never empty; `None` once the queue is closed and empty. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Vec<Encoded>> {
        let due = match self.due {
            Some(due) => due,
            None => {
                let line = self.first().await?;
                self.batch.push(line);
                *self.due.insert(Instant::now() + LINGER)
            }
        };
        let _ = self.closing.run_until_cancelled(sleep_until(due)).await;
        self.fill();
        // What did not fit is the next batch, and has lingered already.
        self.due = (!self.lines.is_empty()).then_some(due);
        Some(std::mem::take(&mut self.batch))
    }

    async fn first(&mut self) -> Option<Encoded> {
        if let Some(line) = self.closing.run_until_cancelled(self.lines.recv()).await {
            return line;
        }
        self.lines.close();
        self.lines.recv().await
    }

    fn fill(&mut self) {
        self.batch.reserve(self.lines.len().min(BATCH_LINES));
        let mut bytes: usize = self.batch.iter().map(Vec::len).sum();
        while self.batch.len() < BATCH_LINES && bytes < BATCH_BYTES {
            let Ok(line) = self.lines.try_recv() else { return };
            bytes += line.len();
            self.batch.push(line);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::SystemTime;

    use postern_model::{AccessLogLine, AuthMechanism, RequestId};
    use postern_proto::convert::{access_log_line_to_wire, access_log_message, access_log_to_wire};

    use super::*;

    pub(crate) fn line(id: u64, path: &str) -> Encoded {
        access_log_line_to_wire(&AccessLogLine {
            timestamp: SystemTime::UNIX_EPOCH,
            id: RequestId::new(0, id),
            account: None,
            service: None,
            host: None,
            path: path.into(),
            duration: Duration::ZERO,
            method: http::Method::GET,
            status: 200,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            mechanism: AuthMechanism::None,
            user_id: String::new(),
            auth_success: true,
            bytes_upload: 0,
            bytes_download: 0,
            reason: "",
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_fits_a_message() {
        let closing = CancellationToken::new();
        let (lines, mut queue) = Queue::new(closing.clone());
        for _ in 0..2_500 {
            lines.try_send(line(1, "/")).expect("room");
        }
        for expected in [1_000, 1_000, 500] {
            assert_eq!(queue.next().await.map(|batch| batch.len()), Some(expected));
        }
        for _ in 0..40 {
            lines.try_send(line(1, &"x".repeat(100_000))).expect("room");
        }
        closing.cancel();
        let mut got = 0;
        while let Some(batch) = queue.next().await {
            assert!(
                access_log_to_wire(&batch).iter().map(|line| line.len() + 4).sum::<usize>() < BATCH_BYTES + 110_000
            );
            got += batch.len();
        }
        assert_eq!(got, 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_loses_nothing() {
        let (lines, mut queue) = Queue::new(CancellationToken::new());
        for number in 0..50 {
            lines.try_send(line(1, &number.to_string())).expect("room");
            tokio::select! {
                biased;
                batch = queue.next() => assert!(batch.is_none(), "too early"),
                () = std::future::ready(()) => {}
            }
        }
        let batch = queue.next().await.expect("a batch");
        let paths: Vec<_> = batch.into_iter().map(|line| access_log_message(&line).path).collect();
        assert_eq!(paths, (0..50).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
