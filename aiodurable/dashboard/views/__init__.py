"""One file a page: reads what it shows from the `Durable` and returns a `Page`."""
