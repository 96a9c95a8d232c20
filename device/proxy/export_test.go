package proxy

import "time"

// Rejudge has clients of sites judged again so often.
func (p *Proxy) Rejudge(every time.Duration) { p.rejudged = every }
