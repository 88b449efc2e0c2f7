"""Everything that touches a driver: connections, the schema, and the SQL of the packages above.

Each driver has its purpose. psycopg's pool (`PsycopgPool`) serves LangGraph's saver and reads, and
may go through a pooler. Dedicated asyncpg connections serve what lives as long as a session, the
locks (`connect_direct`), and what every run needs, above all checkpoint writes (`DirectConnection`,
`DirectPool`). The database's clock decides; the local clock only makes us stop sooner.

- Connections: `connect`, `direct`, `pool` and `pool_connection` open them, `notifier` listens on
  one, `caller` uses one of the application's. `startup` waits until Postgres is ready.
- Statements: `sql` loads them from `sql/*.sql`, `batcher` joins those of many runs, `locked_rows`
  and `retry` send them again, `circuit_breaker` stops them, `errors` translates what they raise.
- Tables: `schema` migrates them, `ownership` and `namespace` check whose they are, `grants` has the
  rights of each role.
"""
