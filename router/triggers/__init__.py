"""What comes in from other systems and starts a rule: HL7 messages over MLLP. Reads and answers; decides nothing."""
