//! A local RDS Proxy in front of a real PostgreSQL.
