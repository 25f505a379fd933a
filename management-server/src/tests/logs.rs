use postern_proto::management::{AccessLog, SendAccessLogRequest};
use postern_proto::postern::v1::{AccessLogAck, AccessLogBatch};
use prost::Message;
use prost::bytes::Bytes;
use tonic::Code;

use super::*;

struct Logs {
    batches: mpsc::Sender<AccessLogBatch>,
    acks: Streaming<AccessLogAck>,
}

impl Calls {
    async fn logs(&self) -> Logs {
        let (batches, receiver) = mpsc::channel(16);
        let acks = self.logs.clone().stream_access_logs(ReceiverStream::new(receiver)).await.expect("opens");
        Logs { batches, acks: acks.into_inner() }
    }
}

impl Logs {
    async fn send(&self, sequence: u64, ids: std::ops::Range<u64>) {
        let line = |id| AccessLog {
            log_id: format!("line-{id}"),
            account_id: if id % 2 == 0 { "default".into() } else { String::new() },
            host: "a.example".into(),
            path: "/x".into(),
            response_code: 200,
            ..AccessLog::default()
        };
        self.batches
            .send(AccessLogBatch { sequence, lines: ids.map(|id| line(id).encode_to_vec().into()).collect() })
            .await
            .expect("open");
    }

    async fn ack(&mut self) -> Result<Option<u64>, Status> {
        let ack = timeout(LONG, self.acks.message()).await.expect("in time")?;
        Ok(ack.map(|ack| ack.sequence))
    }
}

async fn total(world: &World) -> u64 {
    world.admin().status().await.expect("a status").access_log.total
}

#[tokio::test]
async fn lines_are_counted_exactly_also_when_they_come_twice() {
    let world = World::new("# nothing").await;
    let calls = world.connect().await;
    let mut logs = calls.logs().await;
    for sequence in 0..20 {
        logs.send(sequence, sequence * 100..(sequence + 1) * 100).await;
    }
    for sequence in 0..20 {
        assert_eq!(logs.ack().await.expect("no error"), Some(sequence));
    }
    assert_eq!(total(&world).await, 2000);
    let mut again = calls.logs().await;
    again.send(19, 1900..2000).await;
    assert_eq!(again.ack().await.expect("no error"), Some(19));
    assert_eq!(total(&world).await, 2000, "a batch sent again");
    let newest = world.admin().access_log(2).await.expect("lines");
    assert_eq!(newest.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(), ["line-1998", "line-1999"]);
    let line = AccessLog { log_id: "single".into(), account_id: "default".into(), ..AccessLog::default() };
    calls.proxy.clone().send_access_log(SendAccessLogRequest { log: Some(line) }).await.expect("stored");
    assert_eq!(total(&world).await, 2001);
}

#[tokio::test]
async fn over_a_restart_each_line_counts_in_one_of_both_runs() {
    let world = World::new("# nothing").await;
    let mut logs = world.connect().await.logs().await;
    let batches = logs.batches.clone();
    // Batches flow while the server stops; how many get in, chance decides.
    let sending = tokio::spawn(async move {
        let batch = |sequence| AccessLogBatch { sequence, lines: vec![Bytes::new(); 10] };
        for sequence in 0.. {
            if batches.send(batch(sequence)).await.is_err() {
                break;
            }
        }
    });
    assert_eq!(logs.ack().await.expect("no error"), Some(0));
    let counted = world.running.logs.clone();
    let acked = async {
        let mut acked = 1;
        while let Ok(Some(_)) = logs.ack().await {
            acked += 1;
        }
        acked
    };
    let ((), acked) = tokio::join!(world.running.shutdown(), acked);
    assert_eq!(counted.total(), acked * 10, "what was counted was acknowledged, and the rest comes again");
    drop(logs);
    timeout(LONG, sending).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn lines_of_another_account_are_refused() {
    let world = World::new("# nothing").await;
    let calls = world.connect().await;
    let line = || AccessLog { account_id: "other".into(), ..AccessLog::default() };
    let refused = calls.proxy.clone().send_access_log(SendAccessLogRequest { log: Some(line()) }).await;
    assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
    let mut logs = calls.logs().await;
    logs.batches.send(AccessLogBatch { sequence: 0, lines: vec![line().encode_to_vec().into()] }).await.expect("open");
    assert_eq!(logs.ack().await.expect_err("refused").code(), Code::PermissionDenied);
    assert_eq!(total(&world).await, 0);
}
