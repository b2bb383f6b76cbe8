"""What the ledger, the topics and Visa say of the same payouts, compared: what disagrees. Changes nothing."""
