//! Compiles the .proto files into descriptors and generated code.
fn main() {}
