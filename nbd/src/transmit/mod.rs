//! Requests and replies after the negotiation.
