//! The smallest useful framework: it runs the one task that its configuration
//! describes and serves a page that says how far the task is. The instance may
//! vanish after any turn, so what must last stands in the store.

use tepui_sdk::http::{Request, Response, escape};
use tepui_sdk::resources::{self, Bytes, MilliCpus, ResourceRequest};
use tepui_sdk::{Context, Error, Launch, Offer, Scheduler, StartReason, Task, TaskSpec};

/// What the task runs.
pub struct Hello(TaskSpec);

impl Scheduler for Hello {
    fn start(cx: &mut Context<'_>, reason: StartReason, config: &str) -> Result<Self, String> {
        let spec = TaskSpec::new(tepui_sdk::parse_config(config)?);
        spec.validate()?;
        if reason == StartReason::Deployed {
            cx.demand("hello", 1, &request())?;
        }
        Ok(Self(spec))
    }

    fn on_offers(&mut self, cx: &mut Context<'_>, offers: Vec<Offer>) {
        for offer in offers {
            let done = self.launch(cx, &offer);
            done.unwrap_or_else(|error| cx.error(&format!("failed to launch: {error}")));
            let _ = cx.decline(&[offer.id], None); // What is not used; it would expire, too.
        }
    }

    fn on_update(&mut self, cx: &mut Context<'_>, task: Task) {
        let line = format!("task {} is {} on {}", task.id, task.status.code, task.agent);
        cx.info(&line);
        let kept = cx.set("status", line.as_bytes());
        kept.unwrap_or_else(|error| cx.abort(&error.to_string())); // The update comes again.
    }

    fn on_request(&mut self, cx: &mut Context<'_>, _: Request) -> Response {
        let status = cx.get("status").unwrap_or_else(|| b"it waits".to_vec());
        let status = escape(&String::from_utf8_lossy(&status));
        Response::html(200, format!("<title>hello</title><p>{status}"))
    }
}

impl Hello {
    fn launch(&self, cx: &mut Context<'_>, offer: &Offer) -> Result<(), Error> {
        if let (Ok(resources), None) = (offer.resources.pick(&request()), cx.get("status")) {
            cx.accept(offer.id, &self.0, &[Launch::new("hello", resources)])?;
            cx.set("status", b"it was launched")?;
            cx.demand("hello", 0, &request())?; // Nothing more is wanted.
        }
        Ok(())
    }
}

fn request() -> ResourceRequest {
    resources::request(MilliCpus(100), Bytes::mib(64))
}

tepui_sdk::export!(Hello);
