"""Clock, audit, protocol, roofline."""
