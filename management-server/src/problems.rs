use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use parking_lot::Mutex;

/// What does not work in this run, in sentences for people.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<Vec<String>>);

impl Problems {
    /// Runs a task that others rely on. If it panics, `consequence` is a problem from then on, instead of nobody's business;
    /// what else runs goes on.
    pub(crate) async fn watch(&self, consequence: &str, task: impl Future<Output = ()>) {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            let sentence = format!("{consequence}: a part of the management server has failed; start it again");
            tracing::error!("{sentence}");
            self.0.lock().push(sentence);
        }
    }

    /// Something that works again once somebody has done something about it.
    pub(crate) fn note(&self, sentence: String) {
        tracing::warn!("{sentence}");
        self.0.lock().push(sentence);
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_problem_and_an_end_is_none() {
        let problems = Problems::default();
        problems.watch("nothing", async {}).await;
        assert!(problems.list().is_empty());
        problems.watch("the file is not followed any more", async { panic!("for the test") }).await;
        let [problem] = &*problems.list() else { panic!("one problem") };
        assert!(problem.starts_with("the file is not followed any more: ") && problem.ends_with("start it again"));
    }
}
