"""Telling a person who is asleep or away: an outbox in the database, and channels that answer.

    [notify]                          # in config.toml
    quiet = "23:00-07:30"             # local time; only money that runs away is told meanwhile
    coalesce_s = 30                   # what happens within it comes as one message
    morning = "08:00"                 # the summary of the night; "off" for none

    [notify.channels.phone]           # any name
    kind = "wecom"                    # or dingtalk, feishu, serverchan, apprise
    url_file = "phone.url"            # 0600: a webhook's address is a secret. Or a systemd
                                      # credential of that name, or COSTGUARD_NOTIFY_PHONE_URL
    secret_file = "phone.secret"      # dingtalk and feishu with signing: the robot's secret
    lang = "zh"                       # by default the config's `lang`, else zh

For ServerChan the file holds the SendKey, for Apprise one of its addresses a line
(https://appriseit.com). Each channel's own body says whether it took a message: WeCom, DingTalk,
Feishu and ServerChan answer HTTP 200 with an error inside.
"""
