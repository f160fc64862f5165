"""The relay tier (TRS): joins the two ends of a path, IPv4 to IPv6 too, and never decrypts."""
