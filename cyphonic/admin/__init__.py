"""The operator's commands: make a site, hand out enrolment keys, look after nodes."""
