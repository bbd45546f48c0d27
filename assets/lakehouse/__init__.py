"""One lakehouse interface, two engines. Tables are plain Delta tables."""
