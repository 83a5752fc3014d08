"""C2PA content credentials: who says what about a file. Evidence of its own kind, never mixed into p(fake)."""
