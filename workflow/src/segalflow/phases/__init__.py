"""Phase boundaries from ensemble tables: the third contract."""
