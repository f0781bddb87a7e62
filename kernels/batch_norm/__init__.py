"""The batch norm family: its ops, and what every op that begins or ends with a batch norm takes from here."""
