//! Numbers of `linux/netfilter/nf_tables.h` and linux/netfilter.h.

/// `NFPROTO_…`.
pub(crate) mod family {
    pub(crate) const ANY: u8 = 0;
    pub(crate) const INET: u8 = 1;
    pub(crate) const IPV4: u8 = 2;
    pub(crate) const NETDEV: u8 = 5;
}

/// `NF_INET_…` and `NF_NETDEV_INGRESS`.
pub(crate) mod hook {
    pub(crate) const PREROUTING: u32 = 0;
    pub(crate) const FORWARD: u32 = 2;
    pub(crate) const INET_INGRESS: u32 = 5;
    pub(crate) const NETDEV_INGRESS: u32 = 0;
}

/// `NFT_MSG_…` of the subsystem `NFNL_SUBSYS_NFTABLES`.
pub(crate) mod message {
    const SUBSYSTEM: u16 = 10 << 8;
    pub(crate) const NEW_TABLE: u16 = SUBSYSTEM;
    pub(crate) const GET_TABLE: u16 = SUBSYSTEM | 1;
    pub(crate) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
    pub(crate) const GET_CHAIN: u16 = SUBSYSTEM | 4;
    pub(crate) const NEW_RULE: u16 = SUBSYSTEM | 6;
    pub(crate) const GET_RULE: u16 = SUBSYSTEM | 7;
    pub(crate) const NEW_SET: u16 = SUBSYSTEM | 9;
    pub(crate) const GET_SET: u16 = SUBSYSTEM | 0x0a;
    pub(crate) const NEW_ELEMENT: u16 = SUBSYSTEM | 0x0c;
    pub(crate) const GET_ELEMENT: u16 = SUBSYSTEM | 0x0d;
    pub(crate) const NEW_GENERATION: u16 = SUBSYSTEM | 0x0f;
    pub(crate) const GET_GENERATION: u16 = SUBSYSTEM | 0x10;
}

/// `NFTA_…`.
pub(crate) mod attribute {
    /// The two parts of an expression, and of what lists hold.
    pub(crate) mod expression {
        pub(crate) const NAME: u16 = 1;
        pub(crate) const DATA: u16 = 2;
    }

    pub(crate) mod generation {
        pub(crate) const ID: u16 = 1;
    }

    pub(crate) mod table {
        pub(crate) const NAME: u16 = 1;
        pub(crate) const FLAGS: u16 = 2;
    }

    pub(crate) mod chain {
        pub(crate) const TABLE: u16 = 1;
        pub(crate) const NAME: u16 = 3;
        pub(crate) const HOOK: u16 = 4;
        pub(crate) const POLICY: u16 = 5;
    }

    pub(crate) mod hook {
        pub(crate) const NUMBER: u16 = 1;
        pub(crate) const PRIORITY: u16 = 2;
        pub(crate) const DEVICE: u16 = 3;
        pub(crate) const DEVICES: u16 = 4;
    }

    pub(crate) mod rule {
        pub(crate) const TABLE: u16 = 1;
        pub(crate) const CHAIN: u16 = 2;
        pub(crate) const EXPRESSIONS: u16 = 4;
        pub(crate) const USER_DATA: u16 = 7;
    }

    pub(crate) mod set {
        pub(crate) const TABLE: u16 = 1;
        pub(crate) const NAME: u16 = 2;
        pub(crate) const FLAGS: u16 = 3;
        pub(crate) const KEY_TYPE: u16 = 4;
        pub(crate) const KEY_LENGTH: u16 = 5;
        pub(crate) const DATA_TYPE: u16 = 6;
    }

    pub(crate) mod element_list {
        pub(crate) const TABLE: u16 = 1;
        pub(crate) const SET: u16 = 2;
        pub(crate) const ELEMENTS: u16 = 3;
    }

    pub(crate) mod element {
        pub(crate) const KEY: u16 = 1;
        pub(crate) const DATA: u16 = 2;
        pub(crate) const FLAGS: u16 = 3;
    }

    pub(crate) mod data {
        pub(crate) const VALUE: u16 = 1;
        pub(crate) const VERDICT: u16 = 2;
        pub(crate) const VERDICT_CODE: u16 = 1;
        pub(crate) const VERDICT_CHAIN: u16 = 2;
    }
}
