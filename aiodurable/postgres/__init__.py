"""The one room that knows how to reach Postgres: connections, the schema, and the SQL of every room above it.

The two drivers have their places: psycopg's pool serves LangGraph's saver, reads and the ledger (`Database`); dedicated
asyncpg connections carry what must be fast or must live as long as a session, locks and checkpoint commits
(`connect_direct`). The database's clock decides everywhere; the local clock only makes us stop sooner.
"""
