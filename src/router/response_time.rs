//! How long hosts take to answer the requests of a virtual cluster or a route (`upstream_rq_time`): from the end of the request to the
//! end of the response.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    http::{
        Response,
        body::{Body, BodyError},
    },
    route::CountedBy,
    stats::Histogram,
};

/// Records the time when the response has been read to its end. `since` is the end of the request, if it has come.
pub(super) fn recorded(response: Response, counted_by: CountedBy<'_>, since: Option<Instant>) -> Response {
    let histograms: Vec<_> = counted_by.each().map(|counted| counted.stats.upstream_rq_time.clone()).collect();
    let Some(since) = since.filter(|_| !histograms.is_empty()) else { return response };
    let time = ResponseTime { since, histograms };
    if response.body().is_end_stream() {
        time.record();
        return response;
    }
    response.map(|body| Body::boxed(RecordedBody { body, time: Some(time) }))
}

struct ResponseTime {
    since: Instant,
    histograms: Vec<Histogram>,
}

impl ResponseTime {
    fn record(self) {
        let time = self.since.elapsed();
        self.histograms.iter().for_each(|histogram| histogram.record_time(time));
    }
}

struct RecordedBody {
    body: Body,
    time: Option<ResponseTime>,
}

impl http_body::Body for RecordedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = frame.is_none() || matches!(&frame, Some(Ok(_))) && self.body.is_end_stream();
        if ended && let Some(time) = self.time.take() {
            time.record();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
