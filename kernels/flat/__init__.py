"""The ops over one flat buffer, and what they share: its layout, the segment table, the scalars on the device."""
