use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use postern_proto::convert::access_log_message;
use postern_proto::management::SendAccessLogRequest;
use postern_proto::postern::v1::{AccessLogAck, AccessLogBatch};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::backoff::Backoff;
use crate::counters::Counters;
use crate::failure::{Failure, call, classify, describe};
use crate::queue::{Encoded, Queue};
use crate::rpc::Rpc;
use crate::window::{WINDOW, Window};

const DEADLINE: Duration = Duration::from_secs(10);
/// A server that accepts nothing for so long is given up, and its stream with it.
const ACCEPT_DEADLINE: Duration = Duration::from_secs(30);
/// Calls at a time, where lines go one by one.
const CALLS: usize = 64;
/// How often a line is offered that the server answers with an error of its own.
const TRIES: u32 = 3;

/// The task that delivers the access log.
pub(crate) struct Lines {
    rpc: Rpc,
    queue: Queue,
    counters: Arc<Counters>,
    closing: CancellationToken,
    backoff: Backoff,
    drops_told: u64,
}

/// How a stream of batches ended.
enum End {
    /// The queue is closed, and everything is accepted.
    Done,
    /// The server has no such stream.
    Unimplemented,
    /// It is gone, for this reason.
    Lost(String),
}

impl Lines {
    pub(crate) fn new(rpc: Rpc, queue: Queue, counters: Arc<Counters>, closing: CancellationToken) -> Self {
        Self { rpc, queue, counters, closing, backoff: Backoff::new(rand::random()), drops_told: 0 }
    }

    /// Runs until the shutdown, and then until nothing waits.
    pub(crate) async fn run(mut self) {
        let mut window = Window::new();
        while let Some(waiting) = self.in_batches(&mut window).await {
            tracing::info!("management takes the access log line by line");
            if !self.one_by_one(waiting).await {
                return;
            }
        }
    }

    /// Delivers over streams. Some lines that wait, if the server has no such stream; they are to go another way.
    async fn in_batches(&mut self, window: &mut Window) -> Option<Vec<Encoded>> {
        loop {
            if window.is_empty() {
                window.push(self.queue.next().await?);
            }
            match self.one_stream(window).await {
                End::Done => return None,
                End::Unimplemented => return Some(window.take_lines()),
                End::Lost(reason) if window.is_empty() => tracing::debug!("the access-log stream ended: {reason}"),
                End::Lost(reason) => {
                    tracing::warn!("access-log lines wait for management: {reason}");
                    window.restart();
                    self.backoff.pause(&self.closing).await;
                }
            }
        }
    }

    async fn one_stream(&mut self, window: &mut Window) -> End {
        // The window is what bounds it.
        let (batches, outgoing) = mpsc::channel(WINDOW);
        let write = |window: &mut Window| {
            while let Some(batch) = window.write() {
                let _ = batches.try_send(batch);
            }
        };
        write(window);
        let mut acks = match self.open(outgoing).await {
            Ok(acks) => acks,
            Err(status) if status.code() == Code::Unimplemented => return End::Unimplemented,
            Err(status) => return End::Lost(describe(&status)),
        };
        let mut overdue = Instant::now() + ACCEPT_DEADLINE;
        let mut open = true;
        while open || !window.is_empty() {
            tokio::select! {
                ack = acks.message() => match ack {
                    Ok(Some(AccessLogAck { sequence })) => {
                        self.counters.sent(window.accepted(sequence));
                        self.backoff.answered();
                        self.tell_drops();
                        overdue = Instant::now() + ACCEPT_DEADLINE;
                    }
                    Ok(None) => return End::Lost("the server closed the stream".to_owned()),
                    Err(status) if status.code() == Code::Unimplemented => return End::Unimplemented,
                    Err(status) => return End::Lost(describe(&status)),
                },
                lines = self.queue.next(), if open && window.has_room() => match lines {
                    Some(lines) => {
                        if window.is_empty() {
                            overdue = Instant::now() + ACCEPT_DEADLINE;
                        }
                        window.push(lines);
                        write(window);
                    }
                    None => open = false,
                },
                () = sleep_until(overdue), if !window.is_empty() => {
                    return End::Lost(format!("nothing was accepted for {} seconds", ACCEPT_DEADLINE.as_secs()));
                }
            }
        }
        End::Done
    }

    async fn open(&self, batches: mpsc::Receiver<AccessLogBatch>) -> Result<Streaming<AccessLogAck>, Status> {
        let mut postern = self.rpc.postern();
        call(DEADLINE, postern.stream_access_logs(ReceiverStream::new(batches))).await
    }

    /// Goes on until the server was away, because the one that is there now may have the stream, or a gateway may have
    /// said in its absence that it has none: then `true`, with nothing waiting. `false` at the end.
    async fn one_by_one(&mut self, waiting: Vec<Encoded>) -> bool {
        let mut waiting: VecDeque<_> = waiting.into_iter().map(|line| (line, 0)).collect();
        let mut was_away = false;
        loop {
            if waiting.is_empty() {
                if was_away {
                    return true;
                }
                let Some(lines) = self.queue.next().await else { return false };
                waiting.extend(lines.into_iter().map(|line| (line, 0)));
            }
            if !self.send_all(&mut waiting).await {
                was_away = true;
                self.backoff.pause(&self.closing).await;
            }
        }
    }

    /// Offers each line once and keeps those that are to be offered again. Whether the server was there for all.
    async fn send_all(&mut self, waiting: &mut VecDeque<(Encoded, u32)>) -> bool {
        let away = AtomicBool::new(false);
        let (away, this) = (&away, &*self);
        let answers: Vec<_> = stream::iter(std::mem::take(waiting))
            .map(|(line, tries)| async move {
                // The first that finds the server away spares the others the try.
                let answer = if away.load(Relaxed) { None } else { Some(this.send(&line).await) };
                away.fetch_or(matches!(answer, Some(Err(Failure::Unreachable(_)))), Relaxed);
                (line, tries, answer)
            })
            .buffered(CALLS)
            .collect()
            .await;
        let mut all = true;
        for (line, tries, answer) in answers {
            match answer {
                Some(Ok(())) => {
                    self.counters.sent(1);
                    self.backoff.answered();
                }
                Some(Err(Failure::Refused(reason))) => self.refused(&line, &reason),
                Some(Err(Failure::Unsure(reason))) if tries + 1 == TRIES => self.refused(&line, &reason),
                Some(Err(failure)) => {
                    if all {
                        tracing::warn!("access-log lines wait for management: {}", failure.reason());
                    }
                    all = false;
                    waiting.push_back((line, tries + u32::from(matches!(failure, Failure::Unsure(_)))));
                }
                None => {
                    all = false;
                    waiting.push_back((line, tries));
                }
            }
        }
        self.tell_drops();
        all
    }

    async fn send(&self, line: &[u8]) -> Result<(), Failure> {
        let mut management = self.rpc.management();
        let request = SendAccessLogRequest { log: Some(access_log_message(line)) };
        let answer = call(DEADLINE, management.send_access_log(request)).await;
        answer.map(|_| ()).map_err(|status| classify(&status))
    }

    fn refused(&self, line: &[u8], reason: &str) {
        self.counters.refused();
        tracing::debug!(id = access_log_message(line).log_id, "management does not take the access-log line: {reason}");
    }

    fn tell_drops(&mut self) {
        let dropped = self.counters.get().dropped;
        if dropped > self.drops_told {
            tracing::warn!(
                lines = dropped - self.drops_told,
                "access-log lines were dropped: management took them more slowly than requests came"
            );
            self.drops_told = dropped;
        }
    }
}
