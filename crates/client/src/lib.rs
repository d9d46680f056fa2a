//! Finds or starts bangerd; typed calls, streams, tunnels.
