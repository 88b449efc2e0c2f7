"""What other systems see of aiodurable: FastAPI, Prometheus, OpenTelemetry, logs, probes of
health, and an MCP server for assistants.

`prometheus`, `opentelemetry` and `logging` are observers; `process_metrics` and `cluster_metrics`
are what the first two count. What needs an extra says so. Only the command line imports it.
"""
