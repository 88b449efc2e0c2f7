"""Everything that touches a driver: connections, the schema, and the SQL of the packages above.

Each driver has its purpose. psycopg's pool (`PsycopgPool`) serves LangGraph's saver and reads, and
may go through a pooler. Dedicated asyncpg connections serve what lives as long as a session, the
locks (`connect_direct`), and what every run needs, above all checkpoint writes (`DirectConnection`,
`DirectPool`). The database's clock decides; the local clock only makes us stop sooner.
"""
