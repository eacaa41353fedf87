//! HTTP vocabulary: messages, bodies, codecs. No policy.
