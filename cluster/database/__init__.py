"""Where the service keeps what it must not forget: tables, connection, migrations. No business rules."""
