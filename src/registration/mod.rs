//! The gRPC API by which worker processes announce themselves.
