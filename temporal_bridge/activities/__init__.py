"""What workflows call: blocking work with retries, heartbeats and classified errors."""
