//! Two byte streams, each the other's continuation.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;

/// Copies both ways until both ends have ended or one breaks. An end of one direction is passed on and the other goes on: who
/// vanishes without a word is noticed by the keep-alive of either side. What breaks off at one end is reset at both, in the
/// tunnel by `abort`: with an end in order, what came so far would look whole.
pub(crate) async fn relay<T: AsyncRead + AsyncWrite + Unpin>(
    mut client: TcpStream,
    mut tunnel: T,
    abort: impl FnOnce(T),
) {
    if let Err(error) = copy_bidirectional(&mut client, &mut tunnel).await {
        tracing::debug!(%error, "a connection broke");
        let _refused_by_the_system = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
        abort(tunnel);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt, ReadBuf};
    use tokio::net::TcpListener;

    use super::*;

    /// Says something, and then how it ends.
    struct End(&'static [u8], Option<io::ErrorKind>);

    impl AsyncRead for End {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.0));
            match self.1 {
                Some(kind) if buf.filled().is_empty() => Poll::Ready(Err(kind.into())),
                Some(_) | None => Poll::Ready(Ok(())),
            }
        }
    }

    impl AsyncWrite for End {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn seen_by_the_client(end: End) -> io::Result<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        tokio::spawn(relay(server, end, drop));
        let mut begun = [0; 5];
        client.read_exact(&mut begun).await.unwrap();
        // The client's own end, for the relay to come to one.
        tokio::io::AsyncWriteExt::shutdown(&mut client).await.unwrap();
        client.read_to_end(&mut Vec::new()).await
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_and_an_end_is_one() {
        let reset = seen_by_the_client(End(b"begun", Some(io::ErrorKind::ConnectionReset))).await;
        assert_eq!(reset.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
        assert_eq!(seen_by_the_client(End(b"begun", None)).await.unwrap(), 0);
    }
}
