"""Pure decisions: values in, values out. No I/O, no clock reads, no logging, no network library."""
