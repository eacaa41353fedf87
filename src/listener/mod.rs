//! Listeners: where connections come in, and which filter chain serves them.
