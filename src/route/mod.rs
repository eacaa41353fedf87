//! RouteConfiguration: what matches, and what to do then.
