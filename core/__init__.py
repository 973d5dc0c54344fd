"""The pure part of Flowgauge: images in, scores and decisions out; no broker, no store, no clock of its own."""
