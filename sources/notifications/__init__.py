"""Notifications: what services say happened, as samples and events.

One message goes this way: `envelope` opens it, `meters` and `events` make samples and events of it by definitions from YAML
(`definitions`), `listener` puts them on the topics and only then acknowledges. `rabbitmq` and `kafka` fetch messages.
"""
