"""The contract, sentence by sentence, against a real gateway process."""
